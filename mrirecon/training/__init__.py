"""The LightningModule and what it trains with: losses, optimizers, schedules, callbacks."""
