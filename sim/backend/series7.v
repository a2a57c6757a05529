// SPDX-License-Identifier: Apache-2.0
// Models of the 7-series primitives that the accelerator instantiates, as far as it uses them
// (UG474, UG479). sim/test_models.py holds them against the library of Yosys.

module LUT6 (output O, input I0, I1, I2, I3, I4, I5);
  parameter [63:0] INIT = 64'h0;
  assign O = INIT[{I5, I4, I3, I2, I1, I0}];
endmodule

module LUT6_2 (output O6, output O5, input I0, I1, I2, I3, I4, I5);
  parameter [63:0] INIT = 64'h0;
  assign O6 = INIT[{I5, I4, I3, I2, I1, I0}];
  assign O5 = INIT[{1'b0, I4, I3, I2, I1, I0}];
endmodule

// The carries are those of an addition whose operands differ where S is set and are both DI where
// it is not.
module CARRY4 (output [3:0] CO, output [3:0] O, input CI, input CYINIT, input [3:0] DI, S);
  wire [4:0] total = {1'b0, S | DI} + {1'b0, ~S & DI} + {4'b0, CI | CYINIT};
  assign O = total[3:0];
  assign CO[0] = S[0] ? CI | CYINIT : DI[0];
  assign CO[1] = S[1] ? CO[0] : DI[1];
  assign CO[2] = S[2] ? CO[1] : DI[2];
  assign CO[3] = total[4];
endmodule

// Clock enables other than CEP and all resets are tied; operands are never cascaded.
module DSP48E1 (
    output [47:0] P, output [47:0] PCOUT, input CLK, input [29:0] A, ACIN, input [17:0] B, BCIN,
    input [47:0] C, PCIN, input [24:0] D, input [4:0] INMODE, input [3:0] ALUMODE,
    input [6:0] OPMODE, input [2:0] CARRYINSEL, input CARRYIN, CARRYCASCIN, MULTSIGNIN,
    input CEA1, CEA2, CEAD, CEALUMODE, CEB1, CEB2, CEC, CECARRYIN, CECTRL, CED, CEINMODE, CEM, CEP,
    input RSTA, RSTALLCARRYIN, RSTALUMODE, RSTB, RSTC, RSTCTRL, RSTD, RSTINMODE, RSTM, RSTP);
  parameter AREG = 1, ACASCREG = 1, BREG = 1, BCASCREG = 1, ADREG = 1, CREG = 1, DREG = 1, MREG = 1;
  parameter PREG = 1, OPMODEREG = 1, ALUMODEREG = 1, INMODEREG = 1, CARRYINREG = 1;
  parameter CARRYINSELREG = 1;
  parameter USE_DPORT = "FALSE", USE_MULT = "MULTIPLY";

  reg signed [24:0] a = 0, d = 0, ad = 0;
  reg signed [17:0] b1 = 0, b2 = 0;
  reg signed [42:0] product = 0;
  reg signed [47:0] p = 0;
  reg [6:0] opmode = 0;
  wire [6:0] mode = OPMODEREG ? opmode : OPMODE;
  wire signed [24:0] operand = USE_DPORT == "TRUE" ? ad : a;
  wire signed [17:0] weight = BREG == 2 ? b2 : b1;
  wire signed [47:0] x = mode[1:0] == 2'b01 ? {{5{product[42]}}, product} : mode[1:0] == 2'b10 ? p : 0;
  wire signed [47:0] y = mode[3:2] == 2'b11 ? C : 0;
  wire signed [47:0] z = mode[6:4] == 3'b001 ? PCIN : mode[6:4] == 3'b011 ? C : 0;

  always @(posedge CLK) begin
    a <= A[24:0];
    d <= D;
    ad <= d + a;
    b1 <= B;
    b2 <= b1;
    product <= operand * weight;
    opmode <= OPMODE;
    if (CEP) p <= x + y + z;
  end
  assign P = p;
  assign PCOUT = p;

  initial
    if (ALUMODE !== 0 && ALUMODE !== 4'bx || CREG || PREG != 1
        || (USE_MULT == "MULTIPLY" && (AREG != 1 || MREG != 1))) begin
      $display("DSP48E1: this use is not modelled");
      $finish;
    end
endmodule
