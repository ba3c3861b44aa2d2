"""The hostile tenant: one namespace applies and sends whatever hurts, another runs its chains."""
