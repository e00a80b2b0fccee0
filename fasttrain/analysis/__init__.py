"""What finished stages are measured for: the tables that figures are drawn from."""
