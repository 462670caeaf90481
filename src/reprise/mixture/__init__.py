"""Which data is trained on when: budgets, curriculum, policies, the sampler."""
