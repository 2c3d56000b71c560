/* SPDX-License-Identifier: Apache-2.0 */
/* One message as one line on stdout. Not for two threads at a time. */
#ifndef CLI_SUB_PRINT_H
#define CLI_SUB_PRINT_H

#include "args.h"
#include "json_out.h"

#include <evbus/evbus.h>

struct sub_printer {
    struct json json;
    bool as_json, terminal;
    const struct arg_list *headers;
};

void sub_printer_init(struct sub_printer *p, bool as_json, const struct arg_list *headers);
void sub_printer_fini(struct sub_printer *p);

/* False: stdout did not take it. */
bool sub_print(struct sub_printer *p, const evbus_msg *msg);

#endif
