"""Networks: inspecting, loading, memory layout, checking and running them."""
