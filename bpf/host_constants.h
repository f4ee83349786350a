/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the programs of a prebuilt object are told before they are loaded; bcc is told the same by -D. */
#ifndef HOST_CONSTANTS_H
#define HOST_CONSTANTS_H

CONSTANT(TGID, 0);

/* Bytes of a page; 0: what becomes free is not counted. */
CONSTANT(COUNT_FREED, 0);

/* Where a page keeps what tells that, and its flags. */
CONSTANT(FOLIO_FLAGS, NO_OFFSET);
CONSTANT(FOLIO__REFCOUNT, NO_OFFSET);
CONSTANT(FOLIO__MAPCOUNT, NO_OFFSET);
CONSTANT(FOLIO_MAPPING, NO_OFFSET);
CONSTANT(PG_UPTODATE, 0);
CONSTANT(PG_SWAPBACKED, 0);
CONSTANT(PG_LRU, 0);

#endif
