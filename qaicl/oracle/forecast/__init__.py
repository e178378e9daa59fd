"""Where a price may go, and how much such forecasts have been worth. The entry is `service.forecast`."""
