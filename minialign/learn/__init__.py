"""From records to gradients: batches, the policy, losses, the one training loop."""
