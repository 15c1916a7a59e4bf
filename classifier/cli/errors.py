"""Turns the messages of the libraries into one to three lines with a remedy."""

import difflib
import re
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PACKAGE = str(Path(__file__).resolve().parent.parent)


def explain(message: str, parser: Any) -> str:
    return message

def message_of(error): return f"{type(error).__name__}: {error}"

def is_users(error): return True
