"""MLflow's server with pages that open on its table of runs: MLflow's plug-in point `mlflow.app`.

A script before MLflow's own sets what a person would click away, where the browser has no choice of its own yet, and
takes parameters out of the address that hide a shared view on reload and on Back. The endpoint and the names are
internals of MLflow 3.17.2; a test says when they have moved.
"""

from flask import Response
from mlflow.server.fastapi_app import create_fastapi_app, flask_app

HEAD = """<script>
const wanted = {"mlflow.workflowType_v1": '"machine_learning"'};
for (const key of ["assistant.fab.autoOpenedOnFirstLoad_v1", "detectIssues.guidanceShown_v1",
  "telemetry.info.alert.dismissed_v1", "home.getting-started.collapsed_v1"]) wanted["mlflow." + key] = "true";
for (const key in wanted) if (localStorage.getItem(key) === null) localStorage.setItem(key, wanted[key]);
function shorten() {
  const [path, query] = location.hash.split("?"), parameters = new URLSearchParams(query);
  if (!parameters.has("viewStateShareKey")) return;
  for (const key of ["searchFilter", "orderByKey", "orderByAsc", "startTime", "lifecycleFilter",
    "modelVersionFilter", "datasetsFilter"]) parameters.delete(key);
  history.replaceState(history.state, "", path + "?" + parameters);
}
shorten(); addEventListener("popstate", shorten);
</script><style>button[data-assistant-ui] { display: none; }</style>"""

_serve = flask_app.view_functions["serve"]


def serve() -> Response:
    """MLflow's page, with HEAD."""
    page = _serve()
    page.direct_passthrough = False
    return Response(page.get_data(as_text=True).replace("<head>", f"<head>{HEAD}", 1), mimetype="text/html")


flask_app.view_functions["serve"] = serve
app = create_fastapi_app(flask_app)
