"""All but one thing stands in setup.cfg: the package carries the configs that lie beside it."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CONFIGS = Path("configs")


class BuildWithConfigs(build_py):
    """Puts the configs into a wheel, as ``classifier/configs``, and into a source distribution."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copytree(
                CONFIGS, Path(self.build_lib, "classifier", CONFIGS), dirs_exist_ok=True
            )

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *map(str, CONFIGS.rglob("*.yaml"))]


setup(cmdclass={"build_py": BuildWithConfigs})
