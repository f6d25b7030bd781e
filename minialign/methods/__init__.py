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

METHODS: dict[str, Method] = {
    "sft": sft.METHOD,
    "reward": reward.METHOD,
    "dpo": dpo.METHOD,
    "slic": slic.METHOD,
    "rrhf": rrhf.METHOD,
    "conditional": conditional.METHOD,
    "kto": kto.METHOD,
    "orpo": orpo.METHOD,
    "simpo": simpo.METHOD,
    "expert": expert.METHOD,
    "rso": rso.METHOD,
    "online-dpo": online_dpo.METHOD,
    "ppo": ppo.METHOD,
}
