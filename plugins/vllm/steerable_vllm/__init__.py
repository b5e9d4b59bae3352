"""Per-request steering in vLLM, and the engine through which steerable-llm answers by it.

| half | module | runs where |
|---|---|---|
| server | `plugin`, `admission`, `model`, `passes`, `endpoint` | in vLLM's processes |
| client | `served`, `engine`, `connection`, `workers`, `deadlines` | beside `steerable_llm` |
| both | `terms`, `facts`, `shelf`, `checkpoint` | |
"""
