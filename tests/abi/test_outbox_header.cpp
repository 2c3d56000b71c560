// SPDX-License-Identifier: Apache-2.0
// The outbox's header is C++11 as well, and needs neither sqlite3.h nor libpq-fe.h.
#include <evbus/outbox.h>

#include <type_traits>

static_assert(std::is_standard_layout<evbus_outbox_relay_opts>::value, "options are plain data");
static_assert(std::is_trivial<evbus_outbox_db>::value, "a connection is two pointers");

int main()
{
    const evbus_outbox_db none = {nullptr, nullptr};

    return none.sqlite != nullptr || none.postgres != nullptr;
}
