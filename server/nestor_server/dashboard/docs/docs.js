/** Shows openapi.json, with a button to try each request. */

/** A browser's session changes something only with this header, which a page of another site cannot send. */
function withSessionHeader(request) {
  request.headers["X-Nestor-Request"] = "1";
  return request;
}

SwaggerUIBundle({
  domNode: document.getElementById("reference"),
  url: "../openapi.json",
  deepLinking: true,
  defaultModelRendering: "model", // with descriptions; the example is one click away
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  docExpansion: "list",
  filter: true,
  requestInterceptor: withSessionHeader,
  showCommonExtensions: true, // ranges
  tryItOutEnabled: true,
  validatorUrl: null, // nothing is sent to other hosts
});
