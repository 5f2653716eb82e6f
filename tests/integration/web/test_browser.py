"""A real browser: what a doctor does, by mouse and by keyboard alone, in both themes; whether everybody can use it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from preread.core.types import Answer, RefusalCode, Role, Verdict
from preread.review import reviews
from preread.web.app import create_app
from preread.web.context import WebOptions
from tests.support.page import PASSWORD, Films

pytestmark = pytest.mark.browser
# Whether a part of the film's page lies, even in part, under another one.
COVERED = """
const parts = Array.from(document.querySelectorAll("div.film > *"), (one) => one.getBoundingClientRect());
return parts.some((a, at) => parts.slice(at + 1).some(
  (b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom));
"""
AXE = (resources.files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One browser for all of these tests, without anything of the person's own."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    profile = tmp_path_factory.mktemp("chromium")
    for argument in (
        "--headless=new",
        "--no-sandbox",  # tests may run as root
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--window-size=1360,1000",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    yield browser
    browser.quit()


class Doctor:
    """A browser at the page, and words for what a doctor does."""

    def __init__(self, chromium: webdriver.Chrome, base: str, eventually: Callable[..., None]) -> None:
        self.chromium = chromium
        self.base = base
        self._eventually = eventually

    def open(self, path: str) -> None:
        self.chromium.get(self.base + path)

    def all(self, css: str) -> list[Any]:
        return self.chromium.find_elements(By.CSS_SELECTOR, css)

    def one(self, css: str) -> Any:
        self._eventually(lambda: len(self.all(css)) == 1)
        return self.all(css)[0]

    def until(self, condition: Callable[[], object]) -> None:
        self._eventually(condition, within_s=30)

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.chromium).send_keys(*keys).perform()

    def sign_in(self, name: str = "ada") -> None:
        self.open("/")
        self.one("#name").send_keys(name)
        self.one("#password").send_keys(PASSWORD, Keys.ENTER)
        self.until(lambda: self.all("nav"))

    @property
    def focused(self) -> str:
        return str(self.chromium.switch_to.active_element.text)

    @property
    def words(self) -> str:
        # in one step: between two, the page may be another
        return str(self.chromium.execute_script("return document.body ? document.body.innerText : ''"))

    def inaccessible(self) -> list[str]:
        """What axe finds against WCAG 2.1 AA."""
        self.chromium.execute_script(AXE)
        found = self.chromium.execute_async_script(
            "const done = arguments[0], failed = (error) => done({error: String(error)});"
            "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']}).then(done, failed)"
        )
        assert "error" not in found, found
        assert found["passes"]
        return [
            f"{one['id']}: {node['html'][:120]} {node['failureSummary'][:200]}"
            for one in found["violations"]
            for node in one["nodes"]
        ]

    def complaints(self) -> list[str]:
        """What the browser wrote into its console: a broken content policy, a script's error."""
        get_log = cast("Callable[[str], list[dict[str, Any]]]", self.chromium.get_log)
        found = [entry["message"] for entry in get_log("browser") if entry["level"] == "SEVERE"]
        return [message for message in found if "status of 4" not in message and "status of 5" not in message]


@pytest.fixture
def doctor(
    films_here: Films, chromium: webdriver.Chrome, eventually: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Doctor]:
    films_here.person("ada")
    films_here.scan()
    app = create_app(films_here.engine, WebOptions(preview_dir=films_here.preview_dir, scan_interval_s=3600))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, ws="none"))
    thread = threading.Thread(target=running.run)
    thread.start()
    eventually(lambda: running.started)
    port = running.servers[0].sockets[0].getsockname()[1]
    chromium.delete_all_cookies()
    yield Doctor(chromium, f"http://127.0.0.1:{port}", eventually)
    chromium.get("about:blank")
    running.should_exit = True
    thread.join()


def fill(films: Films) -> None:
    """A study of two, a flagged one, one that cannot be judged, one that cannot be read."""
    who: dict[str, Any] = {
        "patient_id": "P-1",
        "patient_name": "PHANTOM^ADA",
        "study_instance_uid": "1.2",
        "station_name": "ROOM 1",
    }
    films.add("1.dcm", Answer.NOT_FLAGGED, preview=True, **who)
    films.add("2.dcm", Answer.FLAGGED, preview=True, patient_id="P-2", patient_name="<b>MARKUP</b>")
    films.add("3.dcm", RefusalCode.VIEW, **who)
    films.add("4.dcm", None)
    films.add("5.dcm", Answer.UNCERTAIN, preview=True, patient_id="P-5")


def test_a_doctor_signs_in_filters_opens_looks_signs_and_leaves(films_here: Films, doctor: Doctor) -> None:
    fill(films_here)
    doctor.sign_in()
    assert len(doctor.all("tr.film")) == 5
    assert not doctor.one("select[name=answer]").is_displayed()
    doctor.one("#filters summary").click()
    Select(doctor.one("select[name=answer]")).select_by_value("flagged")
    doctor.one(".filters button").click()
    doctor.until(lambda: len(doctor.all("tr.film")) == 1)
    assert "<b>MARKUP</b>" in doctor.words
    doctor.one("tr.film a").click()
    doctor.until(lambda: doctor.all("#canvas:not([hidden])"))
    assert "Not for diagnosis".upper() in doctor.words.upper()
    assert not doctor.one("#overlay").is_displayed()
    whole = "const v = document.getElementById('view'); return v.scrollHeight <= v.clientHeight + 1"
    assert doctor.chromium.execute_script(whole), "at first the whole film is in view"
    drawn = doctor.chromium.execute_script("return document.getElementById('canvas').toDataURL()")
    doctor.one("#overlay-on").click()
    assert doctor.one("#overlay").is_displayed()
    over, under = doctor.one("#overlay").rect, doctor.one("#canvas").rect
    assert all(abs(over[part] - under[part]) <= 1 for part in under), (over, under)
    assert "marks no lesion" in doctor.words
    doctor.one("#window").send_keys(Keys.ARROW_LEFT * 20)
    assert doctor.chromium.execute_script("return document.getElementById('canvas').toDataURL()") != drawn
    width = doctor.one("#canvas").size["width"]
    doctor.one("#zoom").send_keys(Keys.ARROW_RIGHT * 4)
    assert doctor.one("#canvas").size["width"] > width
    doctor.one("#reset").click()
    assert doctor.chromium.execute_script("return document.getElementById('canvas').toDataURL()") == drawn
    doctor.one("input[name=verdict][value=accepted]").click()
    doctor.one("#comment").send_keys("lower left")
    doctor.one("button[value=here]").click()
    doctor.until(lambda: "Your reading is signed" in doctor.words)
    assert "lower left" in doctor.words
    (one,) = reviews.list_reviews(films_here.engine, [2])[2]
    assert one.answer_visible
    doctor.one("header form button").click()
    doctor.until(lambda: doctor.all("#password"))
    doctor.open("/worklist")
    assert doctor.all("#password")
    assert doctor.complaints() == []


def test_the_keyboard_alone_is_enough(films_here: Films, doctor: Doctor) -> None:
    fill(films_here)
    doctor.open("/")
    doctor.press("ada", Keys.TAB, PASSWORD, Keys.ENTER)
    doctor.until(lambda: doctor.all("tr.film"))
    doctor.press("j")
    assert doctor.focused == "Film 1"
    doctor.press("j", "j", "k", Keys.ARROW_DOWN, "k")
    assert doctor.focused == "Film 3"
    doctor.press("f")
    assert doctor.chromium.switch_to.active_element.get_attribute("name") == "show"
    doctor.chromium.switch_to.active_element.send_keys(Keys.SHIFT + Keys.TAB)
    doctor.press(Keys.ENTER)  # folds them up again
    assert not doctor.one("select[name=show]").is_displayed()
    doctor.press("/")
    assert doctor.chromium.switch_to.active_element.get_attribute("id") == "search"
    doctor.press("P-2", Keys.ENTER)
    doctor.until(lambda: len(doctor.all("tr.film")) == 1)
    assert "P-2" not in doctor.chromium.current_url
    doctor.press("j", Keys.ENTER)
    doctor.until(lambda: doctor.all("#canvas:not([hidden])"))
    doctor.press("o")
    assert doctor.one("#overlay").is_displayed()
    doctor.press("+", "a")
    assert doctor.one("input[value=accepted]").is_selected()
    doctor.press(Keys.TAB)
    while doctor.chromium.switch_to.active_element.get_attribute("value") != "here":
        doctor.press(Keys.TAB)
    doctor.press(Keys.ENTER)
    doctor.until(lambda: "Your reading is signed" in doctor.words)
    doctor.press("n")
    doctor.until(lambda: "/films/5" in doctor.chromium.current_url)  # the newest, as after a search
    assert doctor.complaints() == []


def test_news_come_without_moving_what_is_looked_at(films_here: Films, doctor: Doctor) -> None:
    fill(films_here)
    doctor.sign_in()
    doctor.press("j", "j")
    assert doctor.focused == "Film 3"
    films_here.add("6.dcm", Answer.FLAGGED)
    ben = films_here.person("ben")
    with films_here.engine.connect() as connection:
        from preread.db import schema

        shown = reviews.shown_result(connection.execute(schema.file.select().where(schema.file.c.id == 2)).one())
    reviews.sign_review(films_here.engine, ben, reviews.ReviewDraft(2, shown, Verdict.ACCEPTED, "t" * 20))
    doctor.until(lambda: doctor.one("#news").text.startswith("1 new in this list"))
    assert doctor.focused == "Film 3"
    assert [row.get_attribute("data-film") for row in doctor.all("tr.film")] == ["1", "3", "2", "4", "5"]
    assert [row.get_attribute("data-film") for row in doctor.all("tr.gone")] == ["2"]
    doctor.one("#news a").click()
    doctor.until(lambda: [row.get_attribute("data-film") for row in doctor.all("tr.film")] == ["1", "3", "4", "5", "6"])


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("width_px", [1360, 420])
def test_everybody_can_use_every_page(films_here: Films, doctor: Doctor, theme: str, width_px: int) -> None:
    fill(films_here)
    films_here.person("root", Role.ADMIN)
    doctor.chromium.set_window_size(width_px, 1000)
    doctor.open("/")
    doctor.chromium.execute_script(f"localStorage.setItem('preread-theme', '{theme}')")
    doctor.open("/")
    assert doctor.inaccessible() == []
    doctor.sign_in()
    assert doctor.chromium.execute_script("return document.documentElement.dataset.theme") == theme
    for path in ("/worklist?order=priority", "/films/2", "/films/3", "/statistics", "/account", "/films/99"):
        doctor.open(path)
        for fold in doctor.all("details summary"):
            fold.click()
        assert doctor.inaccessible() == [], path
        overflow = doctor.chromium.execute_script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert overflow <= 0, path
        assert not doctor.chromium.execute_script(COVERED), path
    doctor.chromium.delete_all_cookies()
    doctor.sign_in("root")
    doctor.open("/audit")
    assert doctor.inaccessible() == []
    assert doctor.complaints() == []
    doctor.chromium.set_window_size(1360, 1000)


def test_the_pages_ask_no_other_host(doctor: Doctor) -> None:
    static = Path(str(resources.files("preread.web")))
    written = [path.read_text() for folder in ("templates", "static") for path in (static / folder).iterdir()]
    assert not [text for text in written if "//" in text.replace("http://www.w3.org/2000/svg", "").replace("// ", "")]
    doctor.open("/sign-in")
    loaded = doctor.chromium.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert loaded
    assert all(name.startswith(doctor.base) for name in loaded)
