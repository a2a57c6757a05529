// SPDX-License-Identifier: Apache-2.0
//
// DDR memory behind one AXI3 port, for simulation: latency, bandwidth, random stalls, faults on order.
// Several of them beside one ddr_budget (below) share their bandwidth; each has contents of its own.
// Verilog-2005, for Icarus and Verilator. Wired up from Amaranth by sim/ddr.py.
//
// Reads and writes are answered in order, with up to eight bursts of each waiting. A W beat is
// accepted only when its address was. Contents are in `mem`, one element per beat from address BASE.
// Accesses outside answer DECERR. What the master may do, sim/world/axi3_checker.py looks at. A bench
// sets `fault_first`, `fault_bound` and `fault_resp`: beats at addresses from the first on to the other
// (exclusive), and bursts with such a beat, answer that; and `silent`: nothing is accepted or answered.
//
// Plusargs, all decimal, override the parameters of the same name:
//   +ddr_read_latency=N    cycles from the AR handshake to the first rvalid, at least 2
//   +ddr_write_latency=N   cycles from the last W handshake to bvalid, at least 2
//   +ddr_bandwidth_beats=N +ddr_bandwidth_cycles=M  at most N beats, both directions together, in M
//                          cycles; M = 0 is no limit
//   +ddr_stall=N           probability out of 256 that a channel pauses, drawn per cycle and channel
//   +ddr_seed=N            seed of the pauses
//   +ddr_init=FILE         contents at the start, for $readmemh
//   +ddr_drop_beat=N       read beat N, counted from 0 over the run, is lost: the rest of its burst
//                          comes one beat early
//   +ddr_error_beat=N, +ddr_write_error_beat=N  this beat, or the burst of this beat, answers SLVERR

module ddr_axi3 #(
    parameter ADDR_BITS = 32,
    parameter DATA_BITS = 64,
    parameter ID_BITS = 6,
    parameter BASE = 0,
    parameter BEATS = 65536,
    parameter READ_LATENCY = 40,
    parameter WRITE_LATENCY = 20,
    parameter BANDWIDTH_BEATS = 1,
    parameter BANDWIDTH_CYCLES = 0,
    parameter STALL = 0
) (
    input                        clk,
    input                        rst,

    input      [ID_BITS-1:0]     awid,
    input      [ADDR_BITS-1:0]   awaddr,
    input      [3:0]             awlen,
    input      [2:0]             awsize,
    input      [1:0]             awburst,
    input                        awvalid,
    output                       awready,

    input      [DATA_BITS-1:0]   wdata,
    input      [DATA_BITS/8-1:0] wstrb,
    input                        wlast,
    input                        wvalid,
    output                       wready,

    output reg [ID_BITS-1:0]     bid,
    output reg [1:0]             bresp,
    output reg                   bvalid,
    input                        bready,

    input      [ID_BITS-1:0]     arid,
    input      [ADDR_BITS-1:0]   araddr,
    input      [3:0]             arlen,
    input      [2:0]             arsize,
    input      [1:0]             arburst,
    input                        arvalid,
    output                       arready,

    output reg [ID_BITS-1:0]     rid,
    output reg [DATA_BITS-1:0]   rdata,
    output reg [1:0]             rresp,
    output reg                   rlast,
    output reg                   rvalid,
    input                        rready,

    // To and from a ddr_budget, {write, read}: a beat could move, and it may.
    output     [1:0]             wants,
    input      [1:0]             grants,

    output reg [31:0]            read_beats,
    output reg [31:0]            write_beats
);
    localparam BYTES = DATA_BITS / 8;
    localparam OFFSET = BYTES == 8 ? 3 : 2;
    localparam DEPTH = 8;
    localparam [1:0] OKAY = 0, SLVERR = 2, DECERR = 3;

    reg [DATA_BITS-1:0] mem [0:BEATS-1] /* verilator public_flat_rw */;

    reg [31:0] fault_first /* verilator public_flat_rw */;
    reg [31:0] fault_bound /* verilator public_flat_rw */;
    reg [1:0]  fault_resp /* verilator public_flat_rw */;
    reg        silent /* verilator public_flat_rw */;

    integer read_latency, write_latency, bandwidth_beats, cost, stall;
    integer drop_beat, error_beat, write_error_beat;
    reg [63:0] seed;
    reg [8*1024-1:0] file;
    initial begin
        fault_first = 0;
        fault_bound = 0;
        fault_resp = OKAY;
        silent = 0;
        read_latency = READ_LATENCY;
        write_latency = WRITE_LATENCY;
        bandwidth_beats = BANDWIDTH_BEATS;
        cost = BANDWIDTH_CYCLES;
        stall = STALL;
        drop_beat = -1;
        error_beat = -1;
        write_error_beat = -1;
        seed = 1;
        if ($value$plusargs("ddr_read_latency=%d", read_latency)) ;
        if ($value$plusargs("ddr_write_latency=%d", write_latency)) ;
        if ($value$plusargs("ddr_bandwidth_beats=%d", bandwidth_beats)) ;
        if ($value$plusargs("ddr_bandwidth_cycles=%d", cost)) ;
        if ($value$plusargs("ddr_stall=%d", stall)) ;
        if ($value$plusargs("ddr_drop_beat=%d", drop_beat)) ;
        if ($value$plusargs("ddr_error_beat=%d", error_beat)) ;
        if ($value$plusargs("ddr_write_error_beat=%d", write_error_beat)) ;
        if ($value$plusargs("ddr_seed=%d", seed)) ;
        if ($value$plusargs("ddr_init=%s", file)) $readmemh(file, mem);
    end

    // Pauses: eight bits of an xorshift generator per channel.
    reg [63:0] random;
    wire [63:0] random_1 = random ^ (random << 13);
    wire [63:0] random_2 = random_1 ^ (random_1 >> 7);
    wire [63:0] random_3 = random_2 ^ (random_2 << 17);
    wire pause_ar = silent || {24'd0, random[15:8]} < stall;
    wire pause_r  = silent || {24'd0, random[23:16]} < stall;
    wire pause_aw = silent || {24'd0, random[31:24]} < stall;
    wire pause_w  = silent || {24'd0, random[39:32]} < stall;
    wire pause_b  = silent || {24'd0, random[47:40]} < stall;

    reg [31:0] now;

    // Bursts waiting for their data.
    reg [ADDR_BITS-1:0] rq_addr [0:DEPTH-1];
    reg [3:0]           rq_len  [0:DEPTH-1];
    reg [ID_BITS-1:0]   rq_id   [0:DEPTH-1];
    reg [31:0]          rq_when [0:DEPTH-1];
    reg [2:0] rq_in, rq_out;
    reg [3:0] rq_count;

    reg [ADDR_BITS-1:0] wq_addr [0:DEPTH-1];
    reg [3:0]           wq_len  [0:DEPTH-1];
    reg [ID_BITS-1:0]   wq_id   [0:DEPTH-1];
    reg [2:0] wq_in, wq_out;
    reg [3:0] wq_count;

    // Finished writes waiting for their response.
    reg [ID_BITS-1:0]   bq_id   [0:DEPTH-1];
    reg [1:0]           bq_resp [0:DEPTH-1];
    reg [31:0]          bq_when [0:DEPTH-1];
    reg [2:0] bq_in, bq_out;
    reg [3:0] bq_count;

    reg [3:0] r_position, w_position;
    reg       r_dropped;
    reg [1:0] w_resp;

    // The two directions share the bandwidth; when it does not suffice for both they take turns.
    integer credit;
    reg favour_write;
    wire r_wants = rq_count != 0 && now >= rq_when[rq_out] && (!rvalid || rready) && !pause_r;
    wire w_able = wq_count != 0 && bq_count != DEPTH && !pause_w;
    wire w_wants = wvalid && w_able;
    wire r_afford = grants[0] && credit >= cost + (favour_write && w_wants ? cost : 0);
    wire w_afford = grants[1] && credit >= cost + (!favour_write && r_wants ? cost : 0);
    assign wants = {w_wants, r_wants};

    assign arready = rq_count != DEPTH && !pause_ar;
    assign awready = wq_count != DEPTH && !pause_aw;
    assign wready = w_able && w_afford;
    wire ar_go = arvalid && arready;
    wire aw_go = awvalid && awready;
    wire w_go = wvalid && wready;
    wire r_go = r_wants && r_afford;
    wire b_go = bq_count != 0 && now >= bq_when[bq_out] && (!bvalid || bready) && !pause_b;

    // Two bits more than an address has, so that neither end of the range wraps.
    wire [ADDR_BITS+1:0] first = BASE;
    wire [ADDR_BITS+1:0] bound = first + BEATS * BYTES;
    wire r_drop = r_dropped || read_beats == drop_beat;
    wire [ADDR_BITS+1:0] r_addr = {2'b0, rq_addr[rq_out]} + ((r_position + r_drop) << OFFSET);
    wire [ADDR_BITS+1:0] w_addr = {2'b0, wq_addr[wq_out]} + (w_position << OFFSET);
    wire [ADDR_BITS+1:0] r_index = (r_addr - first) >> OFFSET;
    wire [ADDR_BITS+1:0] w_index = (w_addr - first) >> OFFSET;
    wire r_inside = r_addr >= first && r_addr < bound;
    wire w_inside = w_addr >= first && w_addr < bound;
    wire r_last = r_position == rq_len[rq_out];
    wire w_last = w_position == wq_len[wq_out];
    wire r_fault = r_addr >= {2'b0, fault_first} && r_addr < {2'b0, fault_bound};
    wire w_fault = w_addr >= {2'b0, fault_first} && w_addr < {2'b0, fault_bound};
    wire [1:0] w_resp_now = !w_inside ? DECERR : w_fault ? fault_resp
                            : write_beats == write_error_beat ? SLVERR : OKAY;
    wire [1:0] w_resp_all = w_resp != OKAY ? w_resp : w_resp_now;

    integer lane;
    always @(posedge clk) begin
        if (rst) begin
            now <= 0;
            random <= (seed + 64'd1) * 64'h9E3779B97F4A7C15;
            credit <= 0;
            favour_write <= 0;
            rq_in <= 0; rq_out <= 0; rq_count <= 0;
            wq_in <= 0; wq_out <= 0; wq_count <= 0;
            bq_in <= 0; bq_out <= 0; bq_count <= 0;
            r_position <= 0; r_dropped <= 0; w_position <= 0; w_resp <= OKAY;
            rvalid <= 0; bvalid <= 0;
            read_beats <= 0; write_beats <= 0;
        end else begin
            now <= now + 1;
            random <= random_3;

            credit <= (credit > 2 * cost ? 2 * cost : credit) + bandwidth_beats
                      - (r_go ? cost : 0) - (w_go ? cost : 0);
            if (r_go) favour_write <= 1;
            if (w_go) favour_write <= 0;

            if (ar_go) begin
                rq_addr[rq_in] <= araddr;
                rq_len[rq_in] <= arlen;
                rq_id[rq_in] <= arid;
                rq_when[rq_in] <= now + read_latency - 1;
                rq_in <= rq_in + 1;
            end
            rq_count <= rq_count + ar_go - (r_go && r_last);

            if (rready) rvalid <= 0;
            if (r_go) begin
                rvalid <= 1;
                rid <= rq_id[rq_out];
                rdata <= r_inside ? mem[r_index] : {DATA_BITS{1'b1}};
                rresp <= !r_inside ? DECERR : r_fault ? fault_resp : read_beats == error_beat ? SLVERR : OKAY;
                rlast <= r_last;
                read_beats <= read_beats + 1;
                r_position <= r_last ? 4'd0 : r_position + 4'd1;
                r_dropped <= r_drop && !r_last;
                if (r_last) rq_out <= rq_out + 1;
            end

            if (aw_go) begin
                wq_addr[wq_in] <= awaddr;
                wq_len[wq_in] <= awlen;
                wq_id[wq_in] <= awid;
                wq_in <= wq_in + 1;
            end
            wq_count <= wq_count + aw_go - (w_go && w_last);

            if (w_go) begin
                if (w_inside)
                    for (lane = 0; lane < BYTES; lane = lane + 1)
                        if (wstrb[lane]) mem[w_index][8*lane +: 8] <= wdata[8*lane +: 8];
                write_beats <= write_beats + 1;
                w_position <= w_last ? 4'd0 : w_position + 4'd1;
                w_resp <= w_last ? OKAY : w_resp_all;
                if (w_last) begin
                    bq_id[bq_in] <= wq_id[wq_out];
                    bq_resp[bq_in] <= w_resp_all;
                    bq_when[bq_in] <= now + write_latency - 1;
                    bq_in <= bq_in + 1;
                    wq_out <= wq_out + 1;
                end
            end
            bq_count <= bq_count + (w_go && w_last) - b_go;

            if (bready) bvalid <= 0;
            if (b_go) begin
                bvalid <= 1;
                bid <= bq_id[bq_out];
                bresp <= bq_resp[bq_out];
                bq_out <= bq_out + 1;
            end
        end
    end
endmodule

// Bandwidth that several ddr_axi3 share: at most N beats, of all ports and both directions, in M
// cycles. Ports take turns when it does not suffice.
//   +ddr_shared_beats=N +ddr_shared_cycles=M    M = 0 is no limit
module ddr_budget #(
    parameter PORTS = 1,
    parameter BEATS = 1,
    parameter CYCLES = 0
) (
    input                    clk,
    input                    rst,
    input      [2*PORTS-1:0] wants,
    output reg [2*PORTS-1:0] grants
);
    integer beats, cost, credit, left, turn, i, at;
    initial begin
        beats = BEATS;
        cost = CYCLES;
        if ($value$plusargs("ddr_shared_beats=%d", beats)) ;
        if ($value$plusargs("ddr_shared_cycles=%d", cost)) ;
    end

    always @* begin
        left = credit;
        grants = 0;
        for (i = 0; i < 2 * PORTS; i = i + 1) begin
            at = (turn + i) % (2 * PORTS);
            if (left >= cost) begin
                grants[at] = 1;
                if (wants[at]) left = left - cost;
            end
        end
    end

    always @(posedge clk) begin
        if (rst) begin
            credit <= 0;
            turn <= 0;
        end else begin
            credit <= (left > 2 * cost ? 2 * cost : left) + beats;
            turn <= (turn + 1) % (2 * PORTS);
        end
    end
endmodule
