"""Every setting, sidecar key, command flag and API parameter is read outside its own declaration,
and each setting of training changes what comes of a job."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic_settings import BaseSettings

from infra.local.settings_page import PROGRAMS
from services.ctl.__main__ import app
from services.ctl.views import history
from services.ingest.outcome.job_settings import NAMES, OPTIONS, ROW_OPTIONS, Asked
from services.ingest.reading.row import RowOptions
from services.model.network import Network
from services.model.template import Chat
from services.trainer.settings import OF_A_JOB
from services.trainer.supervisor.run.prepare import NOT_OF_THE_UPDATES
from services.trainer.worker.data.plan import build_plan
from services.trainer.worker.loop import gradient
from services.trainer.worker.optimizer import learning_rate, make_optimizer, update
from shared.formats.adapter import AdapterShape
from shared.formats.plan import TrainingSettings
from shared.ledger.jobs import Job, Table
from shared.protocol.message import ObjectRef
from shared.protocol.names import JobId, now
from shared.protocol.records import JobRecord, JobSettings
from shared.settings import LeaseSettings, Settings
from tests.tiny import shared_tiny, tiny_conversations
from tests.unit.test_plan import CLOCK, make_spec

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = {"bootstrap": "infra/servers", "duramen": "services/ctl"}
SERVED = {"get", "post", "put", "delete", "patch"}
SHAPE = AdapterShape(rank=2, alpha=4)
OTHER_SHAPES = {"rank": 3, "alpha": 5.0, "dropout": 0.5, "targets": ("q_proj",)}
SHORT = {"batch_tokens": 128, "epochs": 1, "warmup_steps": 2, "learning_rate": 0.05}


def read_in(*folders: str, but: str = "") -> set[str]:
    """Return the names of all attributes that code in these folders reads."""
    files = [f for folder in folders for f in (ROOT / folder).rglob("*.py") if f != ROOT / but]
    trees = (ast.walk(ast.parse(file.read_text(encoding="utf-8"))) for file in files)
    return {
        node.attr
        for tree in trees
        for node in tree
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_setting_is_read_outside_its_declaration(program: str) -> None:
    kind: type[BaseSettings] = PROGRAMS[program]
    folder = FOLDERS.get(program, f"services/{program}")
    shared = read_in("shared", but="shared/settings.py")
    own = read_in(folder, but=f"{folder}/settings.py")
    inherited = LeaseSettings.model_fields if issubclass(kind, Settings) else {}
    for name in kind.model_fields:
        taken = own | shared if name in inherited else own
        assert name in taken or (program == "trainer" and name in OF_A_JOB), name


def test_every_key_of_a_sidecar_reaches_a_plan_or_is_read_by_ingest() -> None:
    assert set(NAMES.values()) == JobSettings.model_fields.keys()
    plan = TrainingSettings.model_fields.keys()
    assert JobSettings.model_fields.keys() - plan == NOT_OF_THE_UPDATES
    assert set(OPTIONS) - set(ROW_OPTIONS) == set(Asked._fields) - {"settings", "rows"}
    assert {*ROW_OPTIONS, "ignore"} == {*RowOptions.__dataclass_fields__}
    assert set(OPTIONS) <= read_in("services")
    shown = history.history_of(Table(), described())
    assert shown["settings"] == {"description": "said"}
    # The lineage's seed is the one field of a plan that no job sets.
    assert plan - JobSettings.model_fields.keys() == {"seed"}


def described() -> Job:
    """Return a job with a description, which nothing but `duramen queue show` is to read."""
    data = ObjectRef(bucket="duramen", key="datasets/x/data.jsonl", sha256="ab" * 32, size=1)
    job = JobId("main", data.sha256, 1)
    record = JobRecord(
        by="t",
        job=job.path,
        state="queued",
        level="normal",
        name="rows.jsonl",
        dataset=data,
        rows=4,
        queued_at=now(),
        settings=JobSettings(description="said"),
    )
    return Job(job, record, 1, 1)


def unused(function: Callable[..., Any]) -> set[str]:
    """Return the parameters of a function that its body never reads."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef)
    return unread(tree)


def unread(tree: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    given = {a.arg for a in (*tree.args.args, *tree.args.kwonlyargs)}
    nodes = (node for part in tree.body for node in ast.walk(part))
    return given - {node.id for node in nodes if isinstance(node, ast.Name)}


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield each command of `duramen` with the function behind it."""
    for name in group.list_commands(None):
        found = group.get_command(None, name)
        if hasattr(found, "list_commands"):
            yield from commands(found, f"{path} {name}")
        else:
            yield f"{path} {name}".strip(), inspect.unwrap(found.callback)


def test_every_argument_and_flag_of_a_command_is_used() -> None:
    found = dict(commands(typer.main.get_group(app)))
    assert len(found) > 30
    assert {name: unused(f) for name, f in found.items() if unused(f)} == {}


def test_every_flag_of_the_installation_is_read() -> None:
    for file in (ROOT / "infra").rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
                name = ast.literal_eval(call.args[0])
                assert name.lstrip("-").replace("-", "_") in read, (file, name)


def test_every_parameter_of_an_api_is_used() -> None:
    seen = 0
    for file in (ROOT / "services").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            calls = [d.func for d in node.decorator_list if isinstance(d, ast.Call)]
            if any(isinstance(c, ast.Attribute) and c.attr in SERVED for c in calls):
                seen += 1
                assert not unread(node), (file, node.name)
    assert seen > 10


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(shared_tiny(), CLOCK)


def outcome(
    folder: Path, chat: Chat, settings: dict[str, Any], shape: AdapterShape = SHAPE
) -> tuple[object, ...]:
    """Return what comes of a job: its batches, what it leaves out, and its adapter at the end."""
    plan = build_plan(make_spec(folder, tiny_conversations(12), settings=settings), chat)
    chosen = plan.plan.settings
    network = Network(shared_tiny(), "float32", shape, seed=chosen.seed)
    optimizer = make_optimizer(network, chosen)
    steps = plan.plan.steps
    for at, rows in enumerate(steps):
        gradient(network, chosen, [[plan.rows[r] for r in rows]], at)
        update(optimizer, learning_rate(chosen, at, at, len(steps)))
        optimizer.zero_grad(set_to_none=True)
    tensors = {name: value.detach().numpy().tobytes() for name, value in network.adapter.items()}
    return plan.plan.batches, plan.plan.left_out, tensors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "beside"),
    [
        ("learning_rate", 0.02, {}),
        ("epochs", 2, {}),
        ("batch_tokens", 256, {}),
        ("max_length", 32, {}),
        ("on_long", "truncate", {"max_length": 32}),
        ("seed", 7, {}),
        ("weight_decay", 0.5, {}),
        ("clip", 1e-3, {}),
        ("warmup_steps", 0, {}),
        ("schedule", "cosine", {}),
        ("cooldown_fraction", 0.9, {"schedule": "wsd"}),
        ("neftune_alpha", 5.0, {}),
    ],
)
def test_a_second_value_of_a_setting_changes_what_comes_of_a_job(
    tmp_path: Path, chat: Chat, name: str, value: object, beside: dict[str, Any]
) -> None:
    before = outcome(tmp_path, chat, {**SHORT, **beside})
    assert outcome(tmp_path, chat, {**SHORT, **beside, name: value}) != before


def test_each_setting_of_a_plan_has_such_a_second_value() -> None:
    marks = test_a_second_value_of_a_setting_changes_what_comes_of_a_job.pytestmark
    (cases,) = (mark.args[1] for mark in marks if mark.name == "parametrize")
    assert {name for name, *_ in cases} == TrainingSettings.model_fields.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", AdapterShape.model_fields)
def test_a_second_value_of_an_adapters_shape_changes_what_comes_of_a_job(
    tmp_path: Path, chat: Chat, name: str
) -> None:
    shape = AdapterShape.model_validate({**SHAPE.model_dump(), name: OTHER_SHAPES[name]})
    assert outcome(tmp_path, chat, SHORT, shape) != outcome(tmp_path, chat, SHORT)


def test_a_second_share_of_held_out_rows_changes_a_plan(tmp_path: Path, chat: Chat) -> None:
    rows = tiny_conversations(200)
    first, second = (make_spec(tmp_path, rows, eval_fraction=share) for share in (0.05, 0.5))
    assert build_plan(first, chat).plan != build_plan(second, chat).plan
