"""MLflow's server for readers with pages that open on its table of runs: MLflow's plug-in point `mlflow.app`.

Requests pass the guard, and artifacts come from the folder of the server alone. A script before MLflow's own sets what
a person would click away, where the browser has no choice of its own yet, and takes parameters out of the address that
hide a shared view on reload and on Back. The endpoint and the names are internals of MLflow 3.17.2; a test says when
they have moved.
"""

import os
from pathlib import Path
from typing import NoReturn

from flask import Response
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from mlflow.server.constants import ARTIFACTS_DESTINATION_ENV_VAR
from mlflow.server.fastapi_app import create_fastapi_app, flask_app
from mlflow.store.artifact.artifact_repository_registry import get_registered_artifact_repositories
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.utils.file_utils import local_file_uri_to_path

from results.tracking.guard import SECRET, Guard

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


class OwnArtifacts(LocalArtifactRepository):
    """Artifacts below the folder of the server. MLflow's error with status 403: elsewhere, or behind a symbolic link.

    MLflow itself refuses links below the folder of a run, except for traces, which symbench does not write.
    """

    def __init__(self, *arguments: str | None, **keywords: str | None) -> None:
        super().__init__(*arguments, **keywords)
        own = Path(local_file_uri_to_path(os.environ[ARTIFACTS_DESTINATION_ENV_VAR])).resolve()
        if not Path(self.artifact_dir).resolve().is_relative_to(own):
            self._refuse()

    def download_trace_data(self) -> NoReturn:
        """Traces are refused."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise MlflowException(f"{self.artifact_uri}: outside the artifacts of the store", PERMISSION_DENIED)


flask_app.view_functions["serve"] = serve
repositories = get_registered_artifact_repositories()
repositories.update(dict.fromkeys(repositories, OwnArtifacts))
app = Guard(create_fastapi_app(flask_app), os.environ[SECRET])
