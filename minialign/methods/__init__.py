"""Training methods, one file each. The dict is the whole registry."""

from minialign.methods import dpo, reward, sft
from minialign.methods.method import Method

METHODS: dict[str, Method] = {
    method.name: method for method in (sft.METHOD, reward.METHOD, dpo.METHOD)
}
