"""The optimizer's step for all slots: gradients summed in one order, scaled, clipped, scheduled."""
