"""Training methods, one file each. The dict is the whole registry."""

from minialign.methods import (
    conditional,
    dpo,
    expert,
    kto,
    online_dpo,
    orpo,
    ppo,
    reward,
    rrhf,
    rso,
    sft,
    simpo,
    slic,
)
from minialign.methods.method import Method

ON_ROWS = (sft, reward, dpo, slic, rrhf, conditional, kto, orpo, simpo)
ON_ANSWERS = (expert, rso, online_dpo, ppo)
METHODS: dict[str, Method] = {one.METHOD.name: one.METHOD for one in (*ON_ROWS, *ON_ANSWERS)}
