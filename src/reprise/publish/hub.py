"""Upload a model folder to the Hugging Face Hub; files that are already there are not uploaded again."""

import os
from pathlib import Path
from typing import cast

from reprise.errors import UserError

TOKEN = "HF_TOKEN"


def push_folder(folder: Path, name: str, *, private: bool = True) -> str:
    """Create the repository if it does not exist, and upload the folder in one commit.

    The same call resumes an interrupted upload: the Hub recognises files that it has by their hashes.

    Args:
        folder: a model folder with README.md.
        name: `owner/name` of the repository.
        private: whether a new repository is private; an existing one is not changed, and must be private too.

    Returns:
        URL of the commit.

    Raises:
        UserError: there is no token in the environment, the folder has no card, the repository is public and `private`
            was asked for, or the Hub refuses the upload or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    token = os.environ.get(TOKEN)
    if not token:
        raise UserError(
            "there is no token for the Hub", where=f"environment variable {TOKEN}",
            remedy="set it to a token with the right to write; it is read from the environment and written nowhere",
        )  # fmt: skip
    if not (folder / "README.md").is_file():
        raise UserError(
            "the folder has no model card (README.md)",
            where=str(folder),
            remedy=f"copy it with one: reprise export {folder}",
        )
    client_error = cast(type[Exception], HfHubHTTPError.__mro__[1])  # of the HTTP client, which versions change
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    try:
        try:
            is_public = not api.repo_info(name).private
        except RepositoryNotFoundError:
            is_public = False
            api.create_repo(name, private=private, exist_ok=True)
        if private and is_public:
            raise UserError(
                "the repository exists and is public",
                where=name,
                remedy="add --public to upload to it, make it private on the Hub, or name another one",
            )
        commit = api.upload_folder(
            repo_id=name, folder_path=folder, commit_message="Upload by reprise push", ignore_patterns=["*.partial"]
        )
    except HFValidationError as error:
        raise UserError(f"{name!r} is no name of a repository: {error}", remedy="write OWNER/NAME") from None
    except UserError:
        raise
    except (HfHubHTTPError, ValueError, RuntimeError) as error:  # RuntimeError: around the error of one file
        said = " ".join(str(one).splitlines()[0] for one in (error, error.__cause__) if str(one or ""))
        said = said.replace(token, "***")
        raise UserError(
            f"the Hub refuses: {said}", where=name,
            remedy="check the name and the rights of the token; the same command resumes",
        ) from None  # fmt: skip
    except (OSError, client_error) as error:
        raise UserError(
            f"the Hub cannot be reached: {str(error).replace(token, '***')}", where=name,
            remedy="run the same command again: files that were sent are not sent again",
        ) from None  # fmt: skip
    return str(commit.commit_url)
