"""Which names in a pickle describe data, which belong to nobody known, and which run code."""

from __future__ import annotations

import pytest

from pytest_lora_ckpt.auditing.judges.safety import judge_globals
from pytest_lora_ckpt.checkpoint.pickle.globals import Global, Use
from pytest_lora_ckpt.findings.from_globals import kind_of


def asked(text: str, use: Use = "called") -> Global:
    """`module:name`, for names with dots; else the last part is the name."""
    module, _, name = text.partition(":") if ":" in text else text.rpartition(".")
    return Global(module, name, "a.pt: a/data.pkl", "x", use)


def names(text: str) -> list[str]:
    return text.split()


CODE = names(
    """
    posix.system nt.system os.popen os.execv os:path.join posix.rename subprocess.Popen subprocess.check_output
    pty.spawn builtins.eval builtins.exec builtins.compile builtins.open builtins.__import__ builtins.getattr
    builtins.setattr builtins.globals builtins.map builtins.print builtins.input builtins:getattr.__call__
    builtins.breakpoint builtins.type importlib.import_module runpy.run_path runpy._run_code
    code.InteractiveInterpreter codeop.compile_command operator.attrgetter operator.methodcaller operator.itemgetter
    functools.reduce _io.open io.open io.FileIO types.CodeType types.FunctionType marshal.loads pickle.loads
    _pickle.loads dill.loads cloudpickle.loads shelve.open webbrowser.open smtplib.SMTP socket.socket
    socket.create_connection ssl.get_server_certificate urllib.request.urlopen http.client.HTTPSConnection
    ftplib.FTP poplib.POP3 imaplib.IMAP4 telnetlib.Telnet pip.main pip._internal.main ensurepip.bootstrap
    ensurepip._run_pip idlelib.pyshell.ModifiedInterpreter idlelib.run.Executive idlelib.autocomplete.AutoComplete
    lib2to3.pgen2.grammar.Grammar.loads lib2to3.pgen2.pgen.ParserGenerator distutils.file_util.write_file
    distutils.spawn.spawn setuptools.sandbox.run_setup pkg_resources.run_script cProfile.run cProfile.runctx
    profile.Profile.runctx pdb.run bdb.Bdb.run trace.Trace.runctx timeit.timeit timeit.main doctest.debug_script
    asyncio.unix_events._UnixSubprocessTransport._start asyncio.subprocess.create_subprocess_shell ctypes.CDLL
    ctypes.WinDLL _ctypes.dlopen multiprocessing.util.spawnv_passfds shutil.rmtree tempfile.mktemp glob.glob
    sqlite3.connect zipimport.zipimporter pydoc.pipepager pydoc.locate venv.create site.addsitedir sys.exit
    sys:modules.get threading.Thread signal.alarm atexit.register inspect.getsource logging.config.fileConfig
    logging.FileHandler numpy.testing._private.utils.runstring numpy.f2py.crackfortran.getlincoef numpy.load
    numpy.fromfile numpy.save numpy.core.multiarray.fromfile numpy.distutils.exec_command.exec_command numpy.memmap
    torch.load torch.save torch.hub.load torch.hub.download_url_to_file torch.jit.load torch.serialization.load
    torch.utils.bottleneck.__main__.run_cprofile torch.utils.collect_env.run torch.utils._config_module.load_config
    torch._dynamo.guards.GuardBuilder.get torch._inductor.codecache.compile_file
    torch.fx.graph_module.reduce_graph_module torch.utils.data.datapipes.utils.decoder.basichandlers
    torch.fx.experimental.symbolic_shapes.ShapeEnv.evaluate_guards_expression
    torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler.SubprocessHandler
    torch.utils.cpp_extension.load_inline torch.package.PackageImporter torch:serialization.os.system
    transformers.pipelines.pipeline transformers.utils.hub.cached_file
    transformers.dynamic_module_utils.get_class_in_module huggingface_hub.snapshot_download
    lightning.pytorch.cli.LightningCLI accelerate.commands.launch.main yaml.unsafe_load pandas.read_pickle
    pandas.eval joblib.load sklearn.utils._testing.assert_run_python_script scipy.io.loadmat jinja2.Template
    IPython.core.interactiveshell.InteractiveShell psutil.Popen paramiko.ProxyCommand gevent.subprocess.Popen
    my_project.shell.Popen my_project.run my_project.tools.load_config my_project:Config.from_file
    my_project:os.system __main__.go aiohttp.web.run_app uvicorn.run nose.tools.assert_equal
    """
)

NAMED_CODE = names(
    """
    posix.system os.popen subprocess.Popen builtins.eval builtins.getattr sys.modules torch.hub.load
    importlib.import_module torch.jit.load numpy.testing._private.utils.runstring transformers.pipelines.pipeline
    my_project:os.system pip.main socket.socket torch:serialization.os.system antigravity.fly this.s
    """
)

INERT = names(
    """
    collections.OrderedDict collections.defaultdict collections.deque collections.Counter builtins.set
    builtins.complex builtins.ValueError torch._utils._rebuild_tensor_v2 torch._utils._rebuild_parameter torch.Size
    torch.device torch._tensor._rebuild_from_type_v2 numpy.core.multiarray._reconstruct
    numpy._core.multiarray.scalar numpy.dtype numpy.ndarray numpy.random._pickle.__randomstate_ctor
    pathlib.PosixPath pathlib._local.PosixPath pathlib.WindowsPath argparse.Namespace datetime.datetime
    datetime.timedelta datetime.timezone decimal.Decimal uuid.UUID re._compile omegaconf.dictconfig.DictConfig
    omegaconf.listconfig.ListConfig omegaconf.base.ContainerMetadata functools.partial
    lightning.fabric.utilities.data.AttributeDict pytorch_lightning.utilities.parsing.AttributeDict
    transformers.training_args.TrainingArguments transformers.trainer_utils.IntervalStrategy
    accelerate.state.PartialState accelerate.utils.dataclasses.DistributedType peft.utils.peft_types.PeftType
    peft.tuners.lora.config.LoraConfig deepspeed.runtime.fp16.loss_scaler.LossScaler
    deepspeed.utils.tensor_fragment.fragment_address zoneinfo:ZoneInfo._unpickle types.SimpleNamespace
    """
)


@pytest.mark.parametrize("name", CODE)
def test_what_runs_code_is_not_inert(name: str) -> None:
    assert kind_of(asked(name)) == "code"
    assert judge_globals([asked(name)]).outcome == "failed"


@pytest.mark.parametrize("name", NAMED_CODE)
def test_a_name_is_enough_where_its_module_runs_code(name: str) -> None:
    assert kind_of(asked(name, "named")) == "code"


@pytest.mark.parametrize("name", INERT)
@pytest.mark.parametrize("use", ["named", "made", "valued", "called"])
def test_known_data_is_inert(name: str, use: Use) -> None:
    assert kind_of(asked(name, use)) == "inert"


@pytest.mark.parametrize("name", INERT)
def test_nothing_is_inert_that_is_changed_or_whose_result_is_called(name: str) -> None:
    assert kind_of(asked(name, "changed")) == "code"
    assert kind_of(asked(f"{name}()")) == "code"


@pytest.mark.parametrize(
    ("name", "use", "kind"),
    [
        ("my_project.config.TrainConfig", "made", "unknown"),
        ("my_project.config.train_config", "made", "unknown"),
        ("my_project.config.Color", "valued", "unknown"),
        ("my_project.config:Outer.Inner", "made", "unknown"),
        ("my_project.config:Outer.method", "named", "unknown"),
        ("my_project.errors.MyError", "called", "unknown"),
        ("my_project.sched.warmup", "named", "unknown"),
        ("__main__.Config", "made", "unknown"),
        ("__main__.warmup", "named", "unknown"),
        ("torch.nn.modules.linear.Linear", "made", "inert"),
        ("torch.nn.modules.linear.Linear", "named", "inert"),
        ("torch.nn.functional.gelu", "named", "inert"),
        ("torch.nn.functional.gelu", "called", "code"),
        ("torch.optim.adamw.AdamW", "named", "inert"),
        ("torch.optim.lr_scheduler.LambdaLR", "named", "inert"),
        ("torch.optim.adamw.AdamW", "called", "code"),
        ("torchmetrics.classification.accuracy.BinaryAccuracy", "made", "inert"),
        ("transformers.models.llama.configuration_llama.LlamaConfig", "made", "inert"),
        ("transformers.models.llama.configuration_llama.LlamaConfig", "called", "code"),
        ("lightning.pytorch.callbacks.progress.ProgressBar", "made", "unknown"),
        ("transformers.some.new.Strategy", "valued", "unknown"),
        ("transformers.some.new.Strategy", "called", "code"),
        ("transformers.trainer_utils:IntervalStrategy.STEPS", "named", "inert"),
        ("builtins.type", "named", "inert"),
    ],
)
def test_the_boundary(name: str, use: Use, kind: str) -> None:
    assert kind_of(asked(name, use)) == kind


def test_module_and_name_are_judged_apart() -> None:
    assert kind_of(asked("torch:_utils._rebuild_tensor_v2")) == "code"
    assert kind_of(asked("torch._utils:_rebuild_tensor_v2")) == "inert"


def test_trust_is_for_exact_names() -> None:
    trusted = judge_globals([asked("my_project.load"), asked("my_project.Config", "made")], ["my_project.load"])
    assert trusted.passed
    assert "1 name by --lora-trust" in trusted.summary
    assert judge_globals([asked("my_project.load")], ["my_project"]).outcome == "failed"


def test_a_failure_says_what_where_and_what_to_do() -> None:
    judgement = judge_globals([asked("posix.system"), asked("my_project.Config", "made")])
    code, unknown = judgement.findings
    assert (code.cause, code.severity, code.keys) == ("runs-code", "error", ("posix.system",))
    assert "posix.system (called, at x in a.pt: a/data.pkl)" in code.message
    assert "--lora-trust=posix.system" in code.remedy
    assert (unknown.cause, unknown.severity, unknown.keys) == ("unknown-class", "warning", ("my_project.Config",))


def test_ten_thousand_names_are_counted() -> None:
    judgement = judge_globals([asked(f"os.f{number}") for number in range(10_000)])
    assert "10000 names" in judgement.summary
    assert len(judgement.summary) < 1500


def test_no_name_of_the_file_becomes_a_command() -> None:
    """People paste the remedy into a shell."""
    hostile = [Global("os", name, "a.pt", None, "called") for name in ("$(id)", "a --lora-loader=b:c")]
    (found,) = judge_globals(hostile).findings
    assert "--lora" not in found.remedy
    (found,) = judge_globals([*hostile, Global("posix", "system", "a.pt", None, "called")]).findings
    assert found.remedy.endswith("If you know what it is: --lora-trust=posix.system.")
