// Before anything is drawn: the theme that was chosen here, if any.
"use strict";
const chosen = localStorage.getItem("preread-theme");
if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
