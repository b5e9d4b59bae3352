"""Per-request steering in vLLM, and the engine through which steerable-llm answers by it.

| half | module | runs where |
|---|---|---|
| server | `plugin`, `model`, `passes`, `shelf`, `endpoint` | in vLLM's processes |
| client | `engine`, `served` | beside `steerable_llm`, its policies and adapters |
| both | `terms`, `checkpoint` | |
"""
