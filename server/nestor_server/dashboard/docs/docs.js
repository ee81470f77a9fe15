/** Lists the routes of openapi.json. */

const openapi = await (await fetch("../openapi.json")).json();
const rows = Object.entries(openapi.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => {
    const row = document.createElement("tr"), request = document.createElement("td"), code = document.createElement("code");
    const description = document.createElement("td");
    code.textContent = `${method.toUpperCase()} ${path}`;
    description.textContent = operation.description ?? operation.summary ?? "";
    request.append(code);
    row.append(request, description);
    return row;
  }),
);
document.getElementById("paths")?.replaceChildren(...rows);
