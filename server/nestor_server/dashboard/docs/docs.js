/** Lists what the interface offers, from its own description. */

const described = await (await fetch("../openapi.json")).json();
const rows = Object.entries(described.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => {
    const row = document.createElement("tr"), request = document.createElement("td"), code = document.createElement("code");
    const what = document.createElement("td");
    code.textContent = `${method.toUpperCase()} ${path}`;
    what.textContent = operation.description ?? operation.summary ?? "";
    request.append(code);
    row.append(request, what);
    return row;
  }),
);
document.getElementById("paths")?.replaceChildren(...rows);
