// One film: window and level on the preview's grey levels, zoom, and the activation map, which is off at first.
"use strict";

const view = document.getElementById("view");

if (view) {
  const picture = document.getElementById("preview");
  const canvas = document.getElementById("canvas");
  const overlay = document.getElementById("overlay");
  const control = (id) => document.getElementById(id);

  function drawPicture() {
    const width = picture.naturalWidth;
    const height = picture.naturalHeight;
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    canvas.width = width;
    canvas.height = height;
    pen.drawImage(picture, 0, 0);
    const data = pen.getImageData(0, 0, width, height);
    const span = Number(control("window").value);
    const low = Number(control("level").value) - span / 2;
    const shade = Uint8ClampedArray.from({ length: 256 }, (_, grey) => Math.round(((grey - low) / span) * 255));
    for (let at = 0; at < data.data.length; at += 4) {
      data.data[at] = data.data[at + 1] = data.data[at + 2] = shade[data.data[at]];
    }
    pen.putImageData(data, 0, 0);
    canvas.hidden = false;
    picture.classList.add("behind");
    picture.hidden = true;
  }

  // Each cell is as large as its part of the film; between their middles the strength goes over smoothly.
  function drawOverlay() {
    const rows = Number(overlay.dataset.rows);
    const columns = Number(overlay.dataset.columns);
    const cells = Uint8Array.from(atob(overlay.dataset.cells), (one) => one.charCodeAt(0));
    const small = document.createElement("canvas");
    small.width = columns;
    small.height = rows;
    const data = new ImageData(columns, rows);
    cells.forEach((strength, cell) => data.data.set([255, 120, 0, strength], 4 * cell));
    small.getContext("2d").putImageData(data, 0, 0);
    overlay.width = picture.naturalWidth;
    overlay.height = picture.naturalHeight;
    const pen = overlay.getContext("2d");
    pen.globalAlpha = Number(control("opacity").value) / 100;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(small, 0, 0, overlay.width, overlay.height);
  }

  // At first the whole film is in view, as high as its frame may be.
  function zoom() {
    const frame = getComputedStyle(view);
    const highest = parseFloat(frame.maxHeight) - parseFloat(frame.borderTopWidth) - parseFloat(frame.borderBottomWidth);
    const fits = Math.min(view.clientWidth, Math.floor((highest * canvas.width) / canvas.height));
    canvas.style.width = `${Number(control("zoom").value) * fits}px`;
    overlay.style.width = canvas.style.width;
    overlay.style.left = `${canvas.offsetLeft}px`;
  }

  function showOverlay() {
    const on = control("overlay-on").checked;
    overlay.hidden = !on;
    control("overlay-what").hidden = !on;
    if (on) drawOverlay();
  }

  function start() {
    control("controls").hidden = false;
    drawPicture();
    zoom();
    addEventListener("resize", zoom);
    control("window").addEventListener("input", drawPicture);
    control("level").addEventListener("input", drawPicture);
    control("zoom").addEventListener("input", zoom);
    control("overlay-on")?.addEventListener("change", showOverlay);
    control("opacity")?.addEventListener("input", drawOverlay);
    control("reset").addEventListener("click", () => {
      control("window").value = 255;
      control("level").value = 128;
      control("zoom").value = 1;
      zoom();
      drawPicture();
    });
  }

  if (picture.complete && picture.naturalWidth) start();
  else picture.addEventListener("load", start, { once: true });

  // Dragging: sideways the window, up and down the level, as viewers do.
  let from = null;
  canvas.addEventListener("pointerdown", (event) => {
    from = { x: event.clientX, y: event.clientY, span: Number(control("window").value), level: Number(control("level").value) };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) return;
    control("window").value = from.span + (event.clientX - from.x) / 2;
    control("level").value = from.level + (event.clientY - from.y) / 2;
    drawPicture();
  });
  canvas.addEventListener("pointerup", () => { from = null; });
}

document.addEventListener("keydown", (event) => {
  if (isTyping(event)) return;
  const verdict = { a: "accepted", x: "rejected", s: "supplemented" }[event.key];
  const slider = document.getElementById("zoom");
  if (verdict) document.querySelector(`input[name="verdict"][value="${verdict}"]`)?.click();
  else if (event.key === "o") document.getElementById("overlay-on")?.click();
  else if ((event.key === "+" || event.key === "-") && slider) {
    slider.value = Number(slider.value) + (event.key === "+" ? 0.5 : -0.5);
    slider.dispatchEvent(new Event("input"));
  } else if (event.key === "n") location.href = document.getElementById("next").href;
  else return;
  event.preventDefault();
});
