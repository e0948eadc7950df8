from __future__ import annotations

from textwrap import dedent

import pytest

from ferrule.errors import PluginError
from ferrule.plugins import discover


def only_error(prefix="ferrule-test"):
    errors = [error for error in discover().errors if prefix in error.message]
    assert len(errors) == 1
    return errors[0]


def test_the_built_in_plugins_come_through_the_door():
    discovery = discover()
    assert not discovery.errors
    offered = {p.entry_point: p for p in discovery.plugins if p.distribution == "ferrule"}
    assert {"llama", "mistral", "qwen2", "huggingface", "gguf", "wrappers"} <= offered.keys()
    assert [a.name for a in offered["llama"].architectures] == ["llama"]
    assert "huggingface" in [a.name for a in offered["huggingface"].weight_adapters]
    assert all(plugin.version for plugin in offered.values())


def test_an_installed_plugin_is_found_with_its_distribution_and_version(install, good):
    install("ferrule-test-one", good())
    plugin = next(p for p in discover().plugins if p.distribution == "ferrule-test-one")
    assert (plugin.version, plugin.entry_point, plugin.origin) == (
        "1.2",
        "it",
        "ferrule-test-one 1.2",
    )
    assert [adapter.name for adapter in plugin.weight_adapters] == ["mine"]
    assert plugin.architectures == ()


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module"),
        ("1 / 0", "ZeroDivisionError"),
        ("this is no python", "SyntaxError"),
        (
            "from ferrule import WeightAdapter\n"
            "WeightAdapter(name='x', matches=bool, names={'a.{n}': 'b.{m}'})",
            r"ValueError: 'b.{m}' uses {m}, which 'a.{n}' does not have",
        ),
    ],
)
def test_an_entry_point_that_fails_to_import_is_an_error_naming_the_distribution(
    install, source, cause
):
    install("ferrule-test-broken", source, entry_point="odd")
    error = only_error()
    assert "The plugin 'odd' (ferrule_test_broken) of ferrule-test-broken 1.2" in error.message
    assert cause in error.message
    assert error.__cause__ is not None
    assert "pip uninstall ferrule-test-broken" in error.hint


def test_a_broken_plugin_hides_no_other(install, good):
    install("ferrule-test-broken", "1 / 0")
    install("ferrule-test-fine", good())
    discovery = discover()
    assert [error for error in discovery.errors if "ferrule-test-broken" in error.message]
    assert "ferrule-test-fine" in [plugin.distribution for plugin in discovery.plugins]


@pytest.mark.parametrize(
    ("hook", "nearest"), [("weight_adapter", "weight_adapters"), ("architectura", "architectures")]
)
def test_a_misspelled_hook_is_an_error_naming_the_nearest(install, hook, nearest):
    install("ferrule-test-typo", f"import ferrule\n\n@ferrule.hookimpl\ndef {hook}(): return []\n")
    error = only_error()
    assert f"of ferrule-test-typo 1.2 implements a hook {hook!r}" in error.message
    assert f"the nearest is {nearest!r}" in error.message


def test_a_hook_with_arguments_is_an_error(install):
    install(
        "ferrule-test-args",
        "import ferrule\n\n@ferrule.hookimpl\ndef architectures(config): return []\n",
    )
    assert "ferrule-test-args 1.2 has a hook of another signature" in only_error().message


def test_a_module_without_a_hook_is_an_error(install):
    install("ferrule-test-empty", "def weight_adapters(): return []")
    error = only_error()
    assert "ferrule-test-empty 1.2 offers nothing" in error.message
    assert "@ferrule.hookimpl" in error.hint


@pytest.mark.parametrize("returned", ["None", "['huggingface']", "7", "[weight_adapters]"])
def test_a_hook_that_returns_something_else_is_an_error(install, returned):
    install(
        "ferrule-test-wrong",
        f"import ferrule\n\n@ferrule.hookimpl\ndef weight_adapters(): return {returned}\n",
    )
    message = only_error().message
    assert "ferrule-test-wrong 1.2 returned" in message
    assert "expected an iterable of WeightAdapter" in message


def test_a_hook_that_raises_is_an_error(install):
    install(
        "ferrule-test-raises",
        "import ferrule\n\n@ferrule.hookimpl\ndef weight_adapters():\n    yield {}['x']\n",
    )
    message = only_error().message
    assert "ferrule-test-raises 1.2 failed in its hook 'weight_adapters': KeyError" in message


def test_a_generator_is_an_iterable(install):
    install(
        "ferrule-test-yields",
        """
        import ferrule

        @ferrule.hookimpl
        def weight_adapters():
            for name in "ab":
                yield ferrule.WeightAdapter(name=name, matches=bool, names={})
        """,
    )
    plugin = next(p for p in discover().plugins if p.distribution == "ferrule-test-yields")
    assert [adapter.name for adapter in plugin.weight_adapters] == ["a", "b"]


def test_a_name_offered_by_two_distributions_is_an_error_naming_both(install, good):
    install("ferrule-test-a", good("same"), version="1.0")
    install("ferrule-test-b", good("same"), version="2.0")
    error = only_error()
    assert "Two plugins offer the weight adapter 'same'" in error.message
    assert "ferrule-test-a 1.0" in error.message
    assert "ferrule-test-b 2.0" in error.message


class TestFiles:
    def write(self, tmp_path, source, name="mine.py"):
        file = tmp_path / name
        file.write_text(dedent(source))
        return file

    def test_a_file_is_a_plugin(self, tmp_path, good, install):
        file = self.write(tmp_path, good("from-file"))
        plugin = discover([file]).plugins[-1]
        assert plugin.origin == f"file {file}"
        assert plugin.entry_point == "mine"
        assert [adapter.name for adapter in plugin.weight_adapters] == ["from-file"]

    def test_a_file_may_define_dataclasses(self, tmp_path, good, install):
        source = good() + dedent(
            """
            from dataclasses import dataclass

            @dataclass
            class Settings:
                size: "int" = 1
            """
        )
        file = self.write(tmp_path, "from __future__ import annotations\n" + source)
        assert discover([file]).errors == ()

    def test_two_files_of_one_name_are_two_plugins(self, tmp_path, good, install):
        (tmp_path / "other").mkdir()
        files = [
            self.write(tmp_path, good("a")),
            self.write(tmp_path / "other", good("b")),
        ]
        discovery = discover(files)
        assert discovery.errors == ()
        names = [plugin.weight_adapters[0].name for plugin in discovery.plugins[-2:]]
        assert names == ["a", "b"]

    def test_a_file_that_offers_an_installed_name_is_an_error(self, tmp_path, good, install):
        file = self.write(tmp_path, good("huggingface"))
        (error,) = discover([file]).errors
        assert f"file {file}" in error.message
        assert "ferrule 0" in error.message

    @pytest.mark.parametrize(
        ("name", "source", "message"),
        [
            ("mine.py", "import no_such_module_at_all", "cannot be imported: ModuleNotFoundError"),
            ("mine.txt", "x = 1", "whose name ends in .py"),
            ("mine.py", "x = 1", "offers nothing"),
        ],
    )
    def test_a_broken_file_is_an_error_naming_it(self, tmp_path, install, name, source, message):
        file = self.write(tmp_path, source, name)
        (error,) = discover([file]).errors
        assert isinstance(error, PluginError)
        assert str(file) in error.message
        assert message in error.message

    def test_a_missing_file_is_an_error(self, tmp_path):
        (error,) = discover([tmp_path / "gone.py"]).errors
        assert "there is no such file" in error.message
