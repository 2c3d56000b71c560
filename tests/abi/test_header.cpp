// SPDX-License-Identifier: Apache-2.0
// The header is C++11, its functions have C linkage, and option structs need no compound literals.
#include <evbus/evbus.h>

#include <cstring>
#include <type_traits>

static_assert(std::is_standard_layout<evbus_opts>::value, "options are plain data");
static_assert(std::is_trivial<evbus_receipt>::value, "receipts are plain data");

int main()
{
    evbus_opts opts;
    evbus_opts_init(&opts);
    evbus_sub_opts sub;
    evbus_sub_opts_init(&sub);

    if (opts.struct_size != sizeof opts || opts.name != nullptr || sub.struct_size != sizeof sub)
        return 1;
    return std::strcmp(evbus_version(), EVBUS_VERSION) == 0 ? 0 : 1;
}
