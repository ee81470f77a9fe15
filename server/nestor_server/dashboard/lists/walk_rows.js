/** The keys j, k and x in a list: they move the focus from one row's link to the next, and select the row. Enter opens. */

/** @param {HTMLElement} element with rows that have a link of class "open" @returns {() => void} ends it */
export function walkRows(element) {
  /** @param {KeyboardEvent} event */
  const press = (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    const isTyping = /^(TEXTAREA|SELECT)$/.test(target.tagName) || (target instanceof HTMLInputElement && target.type !== "checkbox");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const links = /** @type {HTMLElement[]} */ ([...element.querySelectorAll("a.open")]);
    const row = document.activeElement?.closest("tr");
    const at = links.findIndex((one) => one.closest("tr") === row);
    if (event.key === "j") links[Math.min(at + 1, links.length - 1)]?.focus();
    else if (event.key === "k") links[Math.max(at - 1, 0)]?.focus();
    else if (event.key === "x" && at >= 0) /** @type {HTMLElement | null} */ (row?.querySelector('input[type="checkbox"]'))?.click();
    else return;
    event.preventDefault();
  };
  document.addEventListener("keydown", press);
  return () => document.removeEventListener("keydown", press);
}
