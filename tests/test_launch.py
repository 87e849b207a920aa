"""The launch files of scripts/accelerate: what accelerate itself makes of each, without a GPU."""

import re
import shlex
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from transformers import GPT2Config

from musegen.errors import ConfigError
from musegen.models import MusicLstmConfig
from musegen.training import make_accelerator
from musegen.training_config import TrainingConfig

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "scripts" / "accelerate"
FILES = {
    "one_gpu": (DistributedType.NO, 1, 1),
    "multi_gpu": (DistributedType.MULTI_GPU, 8, 1),
    "multi_node": (DistributedType.MULTI_GPU, 16, 2),
    "fsdp": (DistributedType.FSDP, 8, 1),
    "cpu": (DistributedType.MULTI_GPU, 2, 1),
}


def launch(name, *words):
    """What `accelerate launch` would start: the arguments after its own checks, and the environment."""
    path = FOLDER / f"{name}.yaml"
    args = launch_command_parser().parse_args(["--config_file", str(path), *words, "scripts/train.py", "c.yaml"])
    args, _, _ = _validate_launch_command(args)
    if args.multi_gpu or args.use_fsdp:
        return args, prepare_multi_gpu_env(args)
    command, environment = prepare_simple_launcher_cmd_env(args)
    assert command[1:] == ["scripts/train.py", "c.yaml"]
    return args, environment


def test_every_file_is_known_here():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_launch_files(name):
    kind, processes, machines = FILES[name]
    path = FOLDER / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert (config.distributed_type, config.num_processes, config.num_machines) == (kind, processes, machines)
    assert config.use_cpu is False  # with it one process starts, whatever their number
    args, environment = launch(name)
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"
    if kind != DistributedType.NO:
        assert args.nproc_per_node == str(processes // machines)
    text = path.read_text()
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert len(comments) >= 5
    # The command that a file's comment gives is one that accelerate takes.
    lines = " ".join(line.lstrip("# ").rstrip("\\") for line in comments if line.startswith("#    "))
    command = re.sub(r"\bRANK\b", "1", lines)
    assert command.startswith("accelerate launch ")
    parsed = launch_command_parser().parse_args(shlex.split(command)[2:])
    assert Path(parsed.config_file) == path.relative_to(ROOT)


def test_machines_find_each_other():
    for rank in (0, 1):
        args, _ = launch("multi_node", "--machine_rank", str(rank), "--main_process_ip", "127.0.0.1")
        assert (args.nnodes, args.node_rank, args.nproc_per_node) == ("2", rank, "8")
        assert args.rdzv_endpoint == "127.0.0.1:29500"


def test_fsdp_gathers_layer_by_layer():
    """By classes that the models name themselves: accelerate refuses a list of which a model lacks one."""
    from transformers import AutoModelForCausalLM

    _, environment = launch("fsdp")
    assert environment["FSDP_VERSION"] == "2" and environment["FSDP_AUTO_WRAP_POLICY"] == "TRANSFORMER_BASED_WRAP"
    assert "FSDP_TRANSFORMER_CLS_TO_WRAP" not in environment
    for config in (GPT2Config(n_layer=3, n_embd=8, n_head=1), MusicLstmConfig(hidden_size=8, num_layers=3)):
        model = AutoModelForCausalLM.from_config(config)
        assert sum(type(module).__name__ in model._no_split_modules for module in model.modules()) == 3


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP1: set fsdp_version: 2"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, r"DEEPSPEED: .*fsdp\.yaml"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_ACTIVATION_CHECKPOINTING": "true"},
            "lower micro_batch_size",
        ),
    ],
)
def test_other_ways_to_split_a_model_are_refused_by_name(monkeypatch, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        make_accelerator(TrainingConfig(optimizer="muon"))
