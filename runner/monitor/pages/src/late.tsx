/** Pages whose code is fetched when they are wanted, so that the first one is there sooner. */
import type { FunctionComponent } from "preact";
import { useEffect, useState } from "preact/hooks";
import { Loading } from "./parts";

export function late<Props extends object>(load: () => Promise<FunctionComponent<Props>>): FunctionComponent<Props> {
  return function Late(props: Props) {
    const [Page, setPage] = useState<FunctionComponent<Props> | null>(null);
    useEffect(() => void load().then((loaded) => setPage(() => loaded)), []);
    return Page ? <Page {...props} /> : <Loading />;
  };
}
