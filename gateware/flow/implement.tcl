# SPDX-License-Identifier: Apache-2.0
# Placement and routing of the synthesised design, with one set of directives after the other until
# every path meets its clock. Left open at the end: the first design that does, else the best.

# Directives of place_design, phys_opt_design and route_design (UG904); each has been there from
# Vivado 2019.2 on. The first set takes least time.
set recipes {
    {Default Default Default}
    {Explore AggressiveExplore Explore}
    {ExtraTimingOpt AggressiveExplore NoTimingRelaxation}
    {ExtraNetDelay_high AggressiveExplore AggressiveExplore}
    {AltSpreadLogic_high AggressiveExplore AggressiveExplore}
    {ExtraPostPlacementOpt AggressiveExplore AggressiveExplore}
}

# Worst slack in ns of setup (max) or hold (min).
proc worst_slack {delay} {
    return [get_property SLACK [lindex [get_timing_paths -delay_type $delay -max_paths 1] 0]]
}

opt_design
write_checkpoint -force top_opt.dcp
close_project

set log [open top_attempts.rpt w]
puts $log "place phys_opt route setup_ns hold_ns"
set best ""
foreach recipe $recipes {
    lassign $recipe place phys_opt route
    open_checkpoint top_opt.dcp
    # Congestion can make one of them fail where the next one succeeds.
    set failed [catch {
        place_design -directive $place
        phys_opt_design -directive $phys_opt
        route_design -directive $route
        phys_opt_design
        set setup [worst_slack max]
        set hold [worst_slack min]
    } message]
    if {$failed} {
        puts $log "$place $phys_opt $route failed failed"
        flush $log
        puts "$recipe: $message"
        close_project
        continue
    }
    puts $log "$place $phys_opt $route $setup $hold"
    flush $log
    set slack [expr {min($setup, $hold)}]
    if {$best eq "" || $slack > $best} {
        set best $slack
        write_checkpoint -force top_best.dcp
    }
    if {$slack >= 0} {
        break
    }
    close_project
}
close $log
if {$best eq ""} {
    error "no set of directives led to a routed design: $message"
}
if {$best < 0} {
    open_checkpoint top_best.dcp
}
