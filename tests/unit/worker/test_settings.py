"""What a runner inherits."""

from __future__ import annotations

from node.worker.settings import WorkerSettings, language_settings_to_plain, slots_auto
from workflow.steps.base import Settings


def test_the_environment_of_a_runner_has_what_it_needs_and_no_secrets():
    settings = WorkerSettings(environment={"MY_FLAG": "1"})
    scrubbed = settings.scrubbed_environment(
        {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "x", "TZ": "UTC"}, ["/a", "/b"]
    )
    assert scrubbed == {
        "PATH": "/bin",
        "TZ": "UTC",
        "MY_FLAG": "1",
        "PYTHONPATH": "/a:/b",
        "MALLOC_ARENA_MAX": "2",
    }


def test_language_settings_survive_the_way_to_a_runner():
    settings = Settings(allow_http=True, allowed_domains=("a.example",), max_variables=3)
    assert Settings(**language_settings_to_plain(settings)) == settings


def test_there_is_at_least_one_slot():
    assert slots_auto() >= 1
