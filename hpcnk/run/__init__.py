"""The stages of a job, each wiring data, engine, store and solver together."""
