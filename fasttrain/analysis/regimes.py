"""regimes stub for development"""
import sys, types
import numpy as np, pandas as pd
def classify(grid):
    rows=[]
    s=grid.stages
    if s.empty: return pd.DataFrame(columns=["stage","plr","seed","regime","reason","train_loss","grad_norm","step_angle","converged_epoch"])
    for r in s[s["kind"]=="pretrain"].to_dict("records"):
        loss=r["train_loss"]
        reg="3" if not loss==loss or loss>2.2 else ("1" if loss<1e-2 else "2A" if loss<0.3 else "2B")
        rows.append({"stage":r["stage"],"plr":r["plr"],"seed":r["seed"],"regime":reg,"reason":f"training loss {loss:.3g}","train_loss":loss,"grad_norm":r["grad_norm"],"step_angle":np.nan,"converged_epoch":np.nan})
    return pd.DataFrame(rows)
def boundaries(t):
    out=[]
    order={"1":0,"2A":1,"2B":2,"3":3}
    for name,cut in (("1|2",1),("2A|2B",2),("2|3",3)):
        lo=t[t.regime.map(order)<cut].plr.max(); hi=t[t.regime.map(order)>=cut].plr.min()
        ok=lo==lo and hi==hi
        out.append({"boundary":name,"plr":(lo*hi)**.5 if ok else np.nan,"low":lo,"high":hi,"ratio":hi/lo if ok else np.nan,"num_seeds":t.seed.nunique(),"note":"" if ok else "one side is not in the grid"})
    return pd.DataFrame(out)
def shades(t): return []
