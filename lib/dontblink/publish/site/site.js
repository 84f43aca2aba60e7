// The one thing that a page does by itself: fold and unfold all code at once.
"use strict";
{
  const button = document.getElementById("code-switch");
  if (button) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(open));
      button.textContent = open ? "Fold all code" : "Show all code";
      for (const cell of document.querySelectorAll("details.code")) cell.open = open;
    });
  }
}
