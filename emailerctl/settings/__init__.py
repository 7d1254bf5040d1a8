"""Every setting, its unit, its default, and where it comes from (product.md §7)."""

from emailerctl.settings.loading import CheckProviders, Origin, load, locate, origins, warnings
from emailerctl.settings.model import (
    AlertSettings,
    ApiSettings,
    ConsumerSettings,
    DefaultSettings,
    Duration,
    LeaseSettings,
    LimitSettings,
    LogSettings,
    QueueSettings,
    RetentionSettings,
    RetrySettings,
    RoutingSettings,
    Section,
    Settings,
    StoreSettings,
)

__all__ = [
    "AlertSettings",
    "ApiSettings",
    "CheckProviders",
    "ConsumerSettings",
    "DefaultSettings",
    "Duration",
    "LeaseSettings",
    "LimitSettings",
    "LogSettings",
    "Origin",
    "QueueSettings",
    "RetentionSettings",
    "RetrySettings",
    "RoutingSettings",
    "Section",
    "Settings",
    "StoreSettings",
    "load",
    "locate",
    "origins",
    "warnings",
]
