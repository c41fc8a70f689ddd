class CpuPlatform:
    device_type = "cpu"


current_platform = CpuPlatform()
