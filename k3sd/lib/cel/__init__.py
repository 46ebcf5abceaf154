"""The Common Expression Language. Knows nothing of Kubernetes.

``compile_expression(text, names)`` parses once and returns a ``Program``; ``Program.evaluate(variables)`` runs it on JSON data.
``parser`` makes closures of ``nodes``, which compute with ``values`` and call ``functions``; a caller may bring a ``Library``
of its own. Types are checked when an expression runs, not before. Source: the CEL specification (google/cel-spec
``doc/langdef.md``) and cel-go's extensions.
"""

from __future__ import annotations

from collections.abc import Sequence

from k3sd.lib.cel import functions, parser
from k3sd.lib.cel.nodes import MAX_STEPS
from k3sd.lib.cel.parser import Library, Program
from k3sd.lib.cel.values import CompileError, EvaluationError

__all__ = ["MAX_STEPS", "STANDARD", "CompileError", "EvaluationError", "Library", "Program", "compile_expression"]

STANDARD = Library(functions.FUNCTIONS, functions.METHODS)


def compile_expression(text: str, names: Sequence[str], library: Library = STANDARD) -> Program:
    """``names`` are the variables that exist. Raises CompileError."""
    return parser.compile_expression(text, names, library)
