"""`braid metrics`: what shows and judges the numbers that Prometheus reads from runs."""

import typer

from launch.show.answer_json import answer_json
from orchestrator.health.grafana import dashboard as grafana_dashboard
from orchestrator.health.grafana import rules as prometheus_rules

app = typer.Typer(no_args_is_help=True, help="Files for Grafana and Prometheus: see docs/alerts.md.")


@app.command()
def dashboard() -> None:
    """Print a dashboard for Grafana to import or provision."""
    typer.echo(answer_json(grafana_dashboard(), indent=1))


@app.command()
def rules() -> None:
    """Print alert rules for Prometheus."""
    typer.echo(answer_json(prometheus_rules(), indent=1))
