"""How a network is optimized: optimizer, rates, schedule, and what a resumed training keeps."""
