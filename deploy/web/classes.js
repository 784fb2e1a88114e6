/** The list of the classes that an image holds: switch, colour, name, share of the pixels. */

/**
 * Fill the list, the largest share first; all classes are shown.
 *
 * @param {HTMLElement} list
 * @param {{classes: string[], palette: number[][]}} model
 * @param {number[]} counts Pixels of each class.
 * @param {(shown: Set<number>) => void} onChange Called with the ids that are switched on.
 */
export function fillClasses(list, { classes, palette }, counts, onChange) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  const present = counts.map((_, id) => id).filter((id) => counts[id] > 0);
  present.sort((left, right) => counts[right] - counts[left]);
  list.replaceChildren(...present.map((id) => item(id, classes[id], palette[id], counts[id] / total)));
  list.onchange = () => onChange(shownIn(list));
  onChange(shownIn(list));
}

/** Switch all classes of the list on or off. */
export function switchAll(list, isOn) {
  for (const box of list.querySelectorAll("input")) box.checked = isOn;
  list.dispatchEvent(new Event("change"));
}

function shownIn(list) {
  return new Set(Array.from(list.querySelectorAll("input:checked"), (box) => Number(box.value)));
}

function item(id, name, color, share) {
  const box = Object.assign(document.createElement("input"), { type: "checkbox", value: id, checked: true });
  const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
  swatch.style.background = `rgb(${color.join(" ")})`;
  const title = Object.assign(document.createElement("span"), { textContent: name });
  const percent = share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
  const text = Object.assign(document.createElement("span"), { className: "share", textContent: percent });
  const label = document.createElement("label");
  label.append(box, swatch, title, text);
  const entry = document.createElement("li");
  entry.append(label);
  return entry;
}
