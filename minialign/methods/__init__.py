"""Training methods, one file each. The dict is the whole registry."""

from minialign.methods import conditional, dpo, kto, orpo, reward, rrhf, sft, simpo, slic
from minialign.methods.method import Method

METHODS: dict[str, Method] = {
    module.METHOD.name: module.METHOD
    for module in (sft, reward, dpo, slic, rrhf, conditional, kto, orpo, simpo)
}
