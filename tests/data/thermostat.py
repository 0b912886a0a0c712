"""Keeps a greenhouse warm without burning the tomatoes."""

import math

TARGET_CELSIUS = 21.5


class Thermostat:
    """Switches the heater with a hysteresis of 0.8 degrees."""

    def __init__(self, target: float = TARGET_CELSIUS) -> None:
        self.target = target
        self.on = False

    def update(self, measured: float) -> bool:
        """Return whether the heater should be on."""
        if measured < self.target - 0.8:
            self.on = True
        elif measured > self.target + 0.8:
            self.on = False
        return self.on


def dew_point(celsius: float, humidity: float) -> float:
    """Magnus formula with the constants 17.62 and 243.12; humidity in percent."""
    gamma = math.log(humidity / 100) + 17.62 * celsius / (243.12 + celsius)
    return 243.12 * gamma / (17.62 - gamma)
