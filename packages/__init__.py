# SPDX-License-Identifier: GPL-2.0-or-later
"""What `make dist` makes: wheel, source distribution, bundle and Debian package."""
