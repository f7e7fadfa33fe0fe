"""The version of this package: coordinator and hosts must run the same one."""

VERSION = "0.1.0"
