"""What a person writes: search_spaces/NAME.yaml and machine.yaml, validated, as objects."""
