"""What a study trains: the parts of a setting, each a tagged dataclass beside what it builds."""
