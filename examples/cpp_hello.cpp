/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What it shows: the same API from C++11. EVBUS_OPTS is a C macro; here evbus_*_opts_init sets struct_size and the
 * defaults. Handlers are C functions: exceptions must not leave them.
 *
 * Run: cpp_hello [URL]
 */
#include <evbus/evbus.h>

#include <cstdlib>
#include <future>
#include <iostream>
#include <memory>
#include <string>

namespace
{

struct closer {
    void operator()(evbus *bus) const
    {
        evbus_close(bus);
    }
};

extern "C" evbus_verdict on_order(const evbus_msg *msg, void *ctx)
{
    const evbus_envelope *event = evbus_msg_envelope(msg);

    try {
        static_cast<std::promise<std::string> *>(ctx)->set_value(std::string(event->payload, event->payload_len));
    } catch (const std::exception &) {
        return EVBUS_REJECT; /* a second message: the promise is fulfilled */
    }
    return EVBUS_ACK;
}

int complain(evbus_status status)
{
    std::cerr << "cpp_hello: " << evbus_strerror(status) << " (" << evbus_error_detail() << ")\n";
    return 1;
}

} // namespace

int main(int argc, char **argv)
{
    const char *url = argc > 1 ? argv[1] : std::getenv("EVBUS_URL");
    std::promise<std::string> received;
    evbus *opened = nullptr;

    evbus_opts opts;
    evbus_opts_init(&opts);
    opts.name = "cpp-hello";
    evbus_status st = evbus_open(url ? url : "mem://", &opts, &opened);
    if (st != EVBUS_OK)
        return complain(st);
    const std::unique_ptr<evbus, closer> bus(opened);

    evbus_sub_opts sub;
    evbus_sub_opts_init(&sub);
    sub.group = "cpp";
    st = evbus_subscribe_envelope(bus.get(), "hello.cpp", on_order, &received, &sub, nullptr);
    if (st != EVBUS_OK)
        return complain(st);

    evbus_envelope event{}; /* all absent */
    event.aggregate_id = "order-42";
    event.event_type = "OrderPlaced";
    event.event_version = 1;
    event.payload = "{\"total\":12}";
    evbus_receipt receipt;
    evbus_receipt_init(&receipt);
    st = evbus_publish_envelope_wait(bus.get(), "hello.cpp", &event, nullptr, &receipt);
    if (st != EVBUS_OK)
        return complain(st);

    std::cout << "stored at " << receipt.sequence << ", received " << received.get_future().get() << "\n";
    return 0;
}
