"""CEL expressions in `${}`: tokens, compilation, evaluation, rendering."""
