// The viewer: one patient at a time in NiiVue, whose layers can be switched and faded.
const page = JSON.parse(document.getElementById("data").textContent);
const byId = id => document.getElementById(id);
const chosen = {};  // visibility and opacity of each layer by title, which stay from patient to patient
let viewer = null;
let middle = [0.5, 0.5, 0.5];  // of the patient's tumour, as NiiVue counts
let wanted = page.first;  // the number of the patient who was asked for last
let opening = Promise.resolve();

async function startViewer() {
  if (!document.createElement("canvas").getContext("webgl2"))
    throw new Error("This browser has no WebGL 2, which the viewer needs. The pictures below are shown by any browser.");
  const packed = Uint8Array.from(atob(byId("library").textContent.trim()), letter => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  await runScript(URL.createObjectURL(await new Response(stream).blob()));
  const options = {isRadiologicalConvention: true, backColor: [0, 0, 0, 1], logLevel: "error", crosshairWidth: 0.7,
    crosshairWidthUnit: "mm", show3Dcrosshair: true, dragAndDropEnabled: false, loadingText: "", scrollRequiresFocus: true,
    multiplanarShowRender: 1, multiplanarLayout: 2, multiplanarPadPixels: 4, windowingGainFactor: 0.25};
  viewer = new niivue.Niivue(options);
  await viewer.attachToCanvas(byId("canvas"));
  setDrag();
}

function runScript(address) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = address;
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${address} cannot be read. It belongs to this page: copy it, too.`));
    document.head.append(script);
  });
}

function tableOf(kind) {  // NiiVue's colour table of classes or errors
  const table = {R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""]};
  for (const {value, colour, title} of page.colours[kind].colours) {
    ["R", "G", "B"].forEach((name, place) => table[name].push(parseInt(colour.slice(1 + 2 * place, 3 + 2 * place), 16)));
    table.A.push(255);
    table.I.push(value);
    table.labels.push(title);
  }
  return table;
}

async function openPatient(number) {
  clearStage(`Opening ${page.patients[number]} …`);
  const kept = number in volumes;
  if (!kept) await runScript(page.scripts[number]);
  const {name, image, layers, centre} = volumes[number];
  if (!kept) delete volumes[number];  // memory for one patient is enough
  if (name !== page.patients[number])
    throw new Error(`${page.scripts[number]} is of a newer report and holds ${name}: reload the page.`);
  const loaded = [await niivue.NVImage.loadFromBase64(
    {base64: image, name: "image.nii.gz", colormap: "gray", cal_min: 1, cal_max: page.colours.image.most})];
  for (const {title, kind, data} of layers) {
    chosen[title] ??= {on: title === layers[0].title, opacity: 0.6};
    const scale = kind === "uncertainty" ? {colormap: "cividis", cal_min: 1, cal_max: page.colours.uncertainty.most} : {};
    const volume = await niivue.NVImage.loadFromBase64({base64: data, name: `${kind}.nii.gz`, ...scale});
    if (kind !== "uncertainty") volume.setColormapLabel(tableOf(kind));
    volume.opacity = opacityOf(title);
    loaded.push(volume);
  }
  loaded.forEach(volume => viewer.addVolume(volume));
  middle = viewer.mm2frac(centre);
  viewer.setSliceType(Number(byId("view").value));
  reset();
  showLayers(layers);
  byId("message").textContent = "";
  byId("stage").dataset.open = number;
}

const opacityOf = title => chosen[title].on ? chosen[title].opacity : 0;

function showLayers(layers) {
  byId("layers").replaceChildren(...layers.map(({title, kind}, place) => {
    const field = document.createElement("fieldset"), name = document.createElement("label");
    const box = Object.assign(document.createElement("input"), {type: "checkbox", checked: chosen[title].on});
    const fade = Object.assign(document.createElement("input"),
      {type: "range", min: 0, max: 1, step: 0.05, value: chosen[title].opacity, ariaLabel: `Opacity of ${title}`});
    const change = () => {
      chosen[title] = {on: box.checked, opacity: Number(fade.value)};
      viewer.setOpacity(place + 1, opacityOf(title));
    };
    box.addEventListener("change", change);
    fade.addEventListener("input", change);
    name.append(box, ` ${title}`);
    field.append(name, fade, ...legend(kind));
    return field;
  }));
}

function legend(kind) {
  if (kind === "uncertainty") return ["Yellow is uncertain, blue is almost certain."];
  return page.colours[kind].colours.flatMap(({colour, title}) => {
    const entry = document.createElement("span"), key = Object.assign(document.createElement("span"), {className: "key"});
    key.style.background = colour;
    entry.append(key, title);
    return [entry, " "];
  });
}

function setDrag() {
  const left = niivue.DRAG_MODE[byId("drag").value], right = niivue.DRAG_MODE.windowing;
  viewer.setMouseEventConfig({leftButton: {primary: left}, rightButton: right, centerButton: niivue.DRAG_MODE.pan});
  viewer.setTouchEventConfig({singleTouch: left, doubleTouch: niivue.DRAG_MODE.pan});
  viewer.opts.dragMode = byId("drag").value === "pan" ? left : right;  // the wheel zooms in NiiVue's mode pan
}

function reset() {
  viewer.scene.crosshairPos = middle;
  viewer.scene.pan2Dxyzmm = [0, 0, 0, 1];
  viewer.setRenderAzimuthElevation(110, 10);
  viewer.volumes[0].cal_min = 1;
  viewer.volumes[0].cal_max = page.colours.image.most;
  viewer.updateGLVolume();
}

function request(number) {  // one patient after another, also if clicks come faster
  wanted = byId("patient").value = number;
  opening = opening.then(() => viewer && number === wanted && openPatient(number)).catch(fail);
}

function step(by) {  // to the next patient whose volumes there are
  const count = page.patients.length;
  let number = wanted;
  do number = (number + by + count) % count; while (!canOpen(number) && number !== wanted);
  request(number);
}

function clearStage(text) {
  while (viewer?.volumes.length) viewer.removeVolumeByIndex(0);
  byId("layers").replaceChildren();
  byId("message").textContent = text;
  delete byId("stage").dataset.open;
}

const fail = error => clearStage(error.message);
const canOpen = number => number in volumes || number in page.scripts;

page.patients.forEach((name, number) => {
  byId("patient").append(Object.assign(new Option(name, number), {disabled: !canOpen(number)}));
});
byId("patient").value = wanted;
byId("patient").addEventListener("change", () => request(Number(byId("patient").value)));
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
byId("view").addEventListener("change", () => viewer?.setSliceType(Number(byId("view").value)));
byId("drag").addEventListener("change", () => viewer && setDrag());
byId("reset").addEventListener("click", () => viewer && reset());
for (const button of document.querySelectorAll("button[data-patient]")) {
  button.disabled = !canOpen(Number(button.dataset.patient));
  button.addEventListener("click", () => {
    request(Number(button.dataset.patient));
    byId("viewer").scrollIntoView({behavior: "smooth"});
  });
}
opening = startViewer().then(() => openPatient(page.first)).catch(fail);
