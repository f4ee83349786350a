# SPDX-License-Identifier: GPL-2.0-or-later
"""What `top` shows, as lines."""
